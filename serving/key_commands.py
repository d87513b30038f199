"""`python -m serving keys`: make, list and revoke API keys; a running server takes each change over by itself."""

from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from core.settings import Settings
from serving.api_keys import add_key, read_keys, revoke_key
from serving.security import Role

keys = typer.Typer(help="API keys of the workspace: read < write < admin.", no_args_is_help=True)
console = Console(stderr=True)


@keys.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Who will use it, for people; never sent.")],
    role: Annotated[Literal["read", "write", "admin"], typer.Option(help="What it allows.")] = "read",
    rate: Annotated[float | None, typer.Option(min=0, help="Requests per second; default VITRINE_KEY_RATE.")] = None,
) -> None:
    """Makes a key and prints it, once, to standard output."""
    path = Settings().workspace.api_keys
    key, record = add_key(path, name, Role[role.upper()], rate)
    console.print(f"key {record.key_id} for {record.name} ({role}); only its hash is kept, in {path}", soft_wrap=True)
    typer.echo(key)


@keys.command("list")
def listing() -> None:
    """Lists the keys without the keys themselves."""
    table = Table("id", "name", "role", "made", "requests per second")
    for key in read_keys(Settings().workspace.api_keys):
        rate = "default" if key.rate is None else f"{key.rate:g}"
        table.add_row(key.key_id, key.name, key.role.name.lower(), key.created_at, rate)
    Console().print(table)


@keys.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.")]) -> None:
    """Makes a key useless, within a second also at running servers."""
    gone = revoke_key(Settings().workspace.api_keys, key_id)
    console.print(f"key {gone.key_id} of {gone.name} is revoked")
