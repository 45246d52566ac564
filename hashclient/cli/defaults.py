"""Reads default values of options from the environment and from tables of config.toml.

A misspelt name must not be ignored, because the program would then not do what the operator wants.
So a wrong key, type or value in a table is an error that names the key. An environment variable
whose name is similar to a variable of hashclient causes a warning. A variable with the prefix
`HASHCLIENT_` and a dissimilar name causes no warning, because it may belong to another program: for
example, a CI job may store the address of a provider in such a variable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.failures import reason_of
from hashclient.cli.options import option_variables
from hashclient.system.text import nearest

if TYPE_CHECKING:
    from hashclient.config.faults import Fault

#: The prefix of the environment variables of hashclient.
ENV_PREFIX = "HASHCLIENT"
#: The variable with the passphrase of a provider's keys.
KEY_PASSPHRASE = f"{ENV_PREFIX}_KEY_PASSPHRASE"
#: The variables that do not belong to an option, and the meaning of each variable.
OTHER_VARIABLES = {
    f"{ENV_PREFIX}_SEAL_KEY": "The seal key itself, 64 hexadecimal digits.",
    KEY_PASSPHRASE: "The passphrase of a provider's keys.",
    f"{ENV_PREFIX}_DEBUG": "1 shows the place in the code of an internal error, and allows core "
    "dumps.",
}
#: The variables that Kubernetes sets in each container of a namespace with a service `hashclient`.
_OF_SERVICES = (
    rf"{ENV_PREFIX}_(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_\w+)?)?)"
)


def option_name(option: click.Option) -> str | None:
    """Return the key of an option in config.toml: `one_file_system` for `--one-file-system`."""
    for flag in option.opts:
        if flag.startswith("--"):
            return flag.removeprefix("--").replace("-", "_")
    return None


def name_variables(command: click.Command, prefix: str) -> None:
    """Name each option's environment variable after the option, not after a function's argument.

    A group that is called without a subcommand does the same as its subcommand `list`. So the
    variables of the group also set options of `list`, and the variables of `list` also set options
    of the group.
    """
    for parameter in command.params:
        if isinstance(parameter, click.Option) and (name := option_name(parameter)):
            parameter.envvar = f"{prefix}_{name.upper()}"
    if isinstance(command, click.Group):
        for name, sub_command in command.commands.items():
            name_variables(sub_command, f"{prefix}_{name.upper().replace('-', '_')}")
        if command.invoke_without_command:
            twins = {parameter.name: parameter for parameter in command.commands["list"].params}
            for parameter in command.params:
                if (twin := twins.get(parameter.name)) is not None:
                    both = [*option_variables(parameter), *option_variables(twin)]
                    parameter.envvar = twin.envvar = both


def variables_of(command: click.Command) -> Iterator[str]:
    """Yield the names of the variables of a command and of its subcommands."""
    for parameter in command.params:
        yield from option_variables(parameter)
    if isinstance(command, click.Group):
        for sub_command in command.commands.values():
            yield from variables_of(sub_command)


def unknown_variables(
    names: Iterable[str],
    top: click.Group,
    commands: Collection[str],
    load: Callable[[str], click.Command | None],
) -> Iterator[tuple[str, str]]:
    """Yield the `names` that are similar, but not equal, to names of hashclient's variables.

    Each name is yielded with the name that was probably meant. `load` returns a command of `top` by
    its name. Only the commands to which a variable may belong are loaded.
    """
    of_top = {name for parameter in top.params for name in option_variables(parameter)}
    known = {*OTHER_VARIABLES, *of_top}

    def of_command(name: str) -> set[str]:
        command = load(name)
        return set() if command is None else set(variables_of(command))

    for name in sorted(names):
        if (
            not name.startswith(f"{ENV_PREFIX}_")
            or name in known
            or re.fullmatch(_OF_SERVICES, name)
        ):
            continue
        word = name.split("_")[1].lower()
        own = of_command(word) if word in commands else set[str]().union(*map(of_command, commands))
        if name not in own:
            # The names are compared without the prefix, because all names have the prefix.
            words = [other.removeprefix(f"{ENV_PREFIX}_") for other in sorted(known | own)]
            meant = nearest(name.removeprefix(f"{ENV_PREFIX}_"), words)
            if meant is not None:
                yield name, f"{ENV_PREFIX}_{meant}"


def command_defaults(
    table: Mapping[str, Any], name: str, command: click.Command, where: str
) -> dict[str, Any]:
    """Return the default values in the `table` of command `name`, by the parameter of the option.

    The values are texts, as on a command line. `where` is the name of the configuration in
    messages.

    Raises:
        ConfigError: a key is not the name of an option, or a value does not fit its option.
    """
    options = {
        key: option
        for option in command.params
        if isinstance(option, click.Option) and (key := option_name(option))
    }
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        option = options.get(key)
        if option is None or option.name is None:
            from hashclient.config.faults import unknown_key

            raise unknown_key(key, list(options), f"in [{name}]").refusal(where)
        if (fault := _fault_of(option, key, value, name)) is not None:
            raise fault.refusal(where)
        # The values become texts, because click checks texts in the same way as typed values.
        typed = [str(item) for item in (value if isinstance(value, list) else [value])]
        defaults[option.name] = typed if option.multiple else typed[0]
    return defaults


def _kind_of(option: click.Option) -> tuple[tuple[type, ...], str, str]:
    """Return the TOML types for an option, and their names in singular and plural."""
    if option.is_flag:
        return (bool,), "true or false", "booleans"
    if isinstance(option.type, click.types.FloatParamType):  # or its subclass FloatRange
        return (int, float), "a number", "numbers"
    if isinstance(option.type, click.types.IntParamType):
        return (int,), "a whole number", "whole numbers"
    return (str,), "a text in quotes", "texts in quotes"


def _fault_of(option: click.Option, key: str, value: Any, name: str) -> Fault | None:
    """Return why a value in the table of command `name` is wrong; None if the value fits."""
    from hashclient.config.faults import Fault, not_one_of, wrong_type

    values = value if isinstance(value, list) else [value]
    kind, one, many = _kind_of(option)
    fits = isinstance(value, list) is option.multiple and all(
        isinstance(item, kind) and (bool in kind) is isinstance(item, bool) for item in values
    )
    if not fits:
        expected = f"a list of {many}" if option.multiple else one
        return wrong_type(key, f"in [{name}]", expected, value)
    if isinstance(option.type, click.Choice):
        choices = [str(choice) for choice in option.type.choices]
        wrong = next((item for item in values if item not in choices), None)
        return None if wrong is None else not_one_of(wrong, choices, key, f"in [{name}]")
    for item in [] if option.is_flag else values:
        if "\0" in str(item):
            return Fault(f"{key!r} in [{name}] has a character that is zero")
        try:
            option.type.convert(str(item), option, None)
        except click.UsageError as error:
            text = reason_of(error.message, option).rstrip(".")
            hint = f"see `hashclient {name} --help`"
            return Fault(f"{key!r} in [{name}]: {text[:1].lower()}{text[1:]}", hint)
    return None
