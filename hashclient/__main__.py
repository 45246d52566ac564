"""`python -m hashclient` is the same program as the console script."""

from hashclient.cli.main import main

if __name__ == "__main__":
    main()
