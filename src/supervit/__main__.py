"""`python -m supervit` is the command `supervit`."""

from supervit.cli import main

if __name__ == "__main__":
    main()
