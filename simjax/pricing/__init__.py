"""Money and carbon of hardware by the hour, from price sheets with a date and a source."""
