"""`python -m compress` is the `compress` command."""

from compress.cli import main

if __name__ == "__main__":
    main()
