"""`python -m simjax`: the same as the `simjax` command."""

from simjax.cli.main import main

if __name__ == "__main__":
    main()
