"""The subcommands of ``terrakin``: argument parsing and printing only."""
