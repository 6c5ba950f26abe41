"""`python -m jaxrnn` is the `jaxrnn` command."""

from jaxrnn.cli import main

if __name__ == "__main__":
    main()
