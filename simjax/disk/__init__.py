"""Files on disk: where they are, how they are read and written, and what is kept between processes."""
