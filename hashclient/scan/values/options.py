"""The options of a scan, declared once for the command line, the configuration and programs.

Each option is declared in this module, with its type, its default and its help. From the
declaration of an option, `cli/options` makes the flag of the option, its environment variable, its
key in config.toml, and its text in the help, the man pages and the completion. This module imports
only the standard library, because the build of the man pages reads the module.
"""

from typing import Annotated, NamedTuple

#: The executor that checks files in worker processes of this machine.
PROCESSES = "processes"


class Flag(NamedTuple):
    """How an option is shown on the command line: help, metavariable and range of its value."""

    help: str
    metavar: str | None = None
    range: tuple[int, int] | None = None


class ScanOptions(NamedTuple):
    """How files are checked, and what is done about matches.

    An option that is on by default is turned off by a flag that begins with `--no-`. Only programs
    can set the options `show_clean`, `learn`, `passwords` and `brief`.
    """

    exclude: Annotated[
        tuple[str, ...],
        Flag(
            "Skip names that match; with a slash, paths that match. Can be given several times.",
            "GLOB",
        ),
    ] = ()
    one_file_system: Annotated[bool, Flag("Stay on the file system of each PATH.")] = False
    follow_symlinks: Annotated[
        bool,
        Flag("Follow links that are met on the way. A PATH that is a link is always followed."),
    ] = False
    sparse: Annotated[
        bool,
        Flag(
            "Also read files of more than 1 GiB with more than 99 % holes; without this option,"
            " these files are unread."
        ),
    ] = False
    members: Annotated[
        bool,
        Flag("Do not open archives and mail: each is one file, and the summary says so."),
    ] = True
    verify_sizes: Annotated[
        bool,
        Flag(
            "Also read members of archives whose claimed size no entry has; without this option,"
            " the claim rules these members out."
        ),
    ] = False
    all_digests: Annotated[
        bool,
        Flag(
            "Compute every digest that the lists have for a file of its size, not the"
            " cheapest alone: finds entries whose digests are not of one file."
        ),
    ] = False
    #: With 0 jobs, which only programs can give, all files are checked in the calling thread, and
    #: no process is forked.
    jobs: Annotated[
        int | None,
        Flag(
            "Worker processes. [default: as many as there are processors, or as a quota"
            " is worth, and more as long as they wait for storage]",
            "N",
            (1, 256),
        ),
    ] = None
    executor: Annotated[
        str | None,
        Flag(
            "Where files are checked: in `processes` of this machine; by the workers of"
            " a cluster, `dask://HOST:PORT`; or `local-cluster:N`, for a trial. [default: that of"
            " config.toml, or `processes`]",
            "WHERE",
        ),
    ] = None
    inventory: Annotated[
        bool,
        Flag("Read every file, also those that the inventory knows unchanged."),
    ] = True
    ignore_missing: Annotated[
        bool,
        Flag("Skip names of --files-from that are not there any more; without it they are unread."),
    ] = False
    quarantine: Annotated[bool, Flag("Isolate every match, sealed, with any policy.")] = False
    policy_check: Annotated[
        bool,
        Flag("Print for each match what the policy would do, without doing it."),
    ] = False
    actions: Annotated[
        bool,
        Flag(
            "Only record matches, with any policy, config.toml and --quarantine: for"
            " hooks and CI jobs."
        ),
    ] = True
    exceptions: Annotated[
        bool, Flag("A file that `exceptions` excepts is a match all the same.")
    ] = True

    #: Whether outcomes of clean files are yielded, too; clean files are always counted.
    show_clean: bool = False
    #: Whether the scan uses the inventory: reads records from it, and writes new records.
    learn: bool = True
    #: The passwords to try for encrypted members of archives.
    passwords: tuple[bytes, ...] = ()
    #: Whether the log gets one record of the run, a `watch-look`, instead of two records.
    brief: bool = False
