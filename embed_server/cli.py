"""The ``terrakin`` command: its groups, and how errors become exit codes."""

from __future__ import annotations

import sys

import click

from embed_server.commands import (
    change,
    change_collection,
    chips,
    collections,
    index,
    locations,
    probe,
    probe_places,
    raster,
    remote_store,
    search,
    serve,
    sql,
)
from embed_server.console import EXIT_FAILED, EXIT_INTERRUPTED, note
from embeddings import __version__
from embeddings.errors import CancelledError, TerrakinError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="terrakin")
def terrakin() -> None:
    """Find the places that are like this place.

    Data goes to standard output, progress and messages to standard error. Exit codes: 0 done,
    1 failed, 2 wrong usage, 3 partly done, 130 interrupted (run the same command to go on).
    """


@terrakin.group()
def embed() -> None:
    """Compute embeddings and add them to a collection."""


@terrakin.group()
def train() -> None:
    """Train encoders of your own."""


change.change.add_command(change_collection.collection_command)
embed.add_command(raster.embed_raster_command)
embed.add_command(chips.embed_chips_command)
embed.add_command(locations.embed_locations_command)
train.add_command(locations.train_location_command)
probe.probe.add_command(probe_places.queue_command)
probe.probe.add_command(probe_places.sample_command)
probe.probe.add_command(probe_places.accuracy_command)
for command in (
    collections.collections,
    collections.info,
    collections.verify,
    collections.rename,
    collections.delete,
    raster.encoders_command,
    remote_store.fetch,
    locations.grid,
    search.search,
    index.index_command,
    probe.probe,
    change.change,
    sql.sql,
    serve.serve,
    serve.demo,
):
    terrakin.add_command(command)


def main() -> None:
    """Run the command; turn our errors into one line and an exit code."""
    try:
        sys.exit(terrakin(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CancelledError as error:
        note(str(error))
        sys.exit(EXIT_INTERRUPTED)
    except (KeyboardInterrupt, click.Abort):
        note("Interrupted. Run the same command to go on.")
        sys.exit(EXIT_INTERRUPTED)
    except TerrakinError as error:
        note(f"Error: {error}")
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
