"""Adds man pages and completion scripts to the wheel; they are made from the commands.

An editable install has no man pages or completion scripts, so that it is quick and needs only the
build backend. `SOURCE_DATE_EPOCH` is the date of the pages, so that the same tree always gives the
same wheel.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.utils import get_reproducible_timestamp
from hatchling.builders.wheel import WheelBuilderConfig


class DataFiles(BuildHookInterface[WheelBuilderConfig]):
    """Adds the pages and scripts that `docs/manpages` makes to the wheel's data files."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write pages and scripts to a temporary directory, and pass their paths to the builder."""
        if sys.platform != "linux":
            raise OSError(f"hashclient runs on Linux only, and this is {sys.platform}")
        if version == "editable":
            return
        # The pages describe the commands of this tree, whatever version is installed. The commands
        # import nothing but click.
        sys.path.insert(0, self.root)
        from docs.manpages.commands import CONFIG_PAGE, data_files
        from docs.manpages.configuration import config_page

        made = datetime.fromtimestamp(get_reproducible_timestamp(), UTC).date()
        self._temporary = tempfile.TemporaryDirectory()
        manual = Path(self.root, "docs/operations/configuration.md").read_text(encoding="utf-8")
        files = data_files(made)
        files[f"share/man/man5/{CONFIG_PAGE}.5"] = config_page(manual, made)
        for number, (target, text) in enumerate(files.items()):
            source = Path(self._temporary.name, str(number))
            source.write_text(text, encoding="utf-8")
            source.chmod(0o644)
            build_data["shared_data"][str(source)] = target

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary directory."""
        if version != "editable":
            self._temporary.cleanup()
