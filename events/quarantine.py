"""Refused rows, kept with the reason: nothing that the platform was handed disappears silently."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.files import file_hash, sync_folder
from core.workspace import Workspace


def quarantine(workspace: Workspace, gate: str, rows: pa.Table, reasons: Sequence[str] | pa.Array) -> Path:
    """The file that now holds the refused rows, `reason` as first column.

    One file per gate and content, `quarantine/<gate>/<hash>.parquet`: refusing the same rows again adds nothing.
    """
    if len(reasons) != rows.num_rows:
        raise ValueError(f"{rows.num_rows} refused rows but {len(reasons)} reasons; expected one each")
    if "reason" in rows.column_names:
        raise ValueError("refused rows have a column `reason` already; rename it before they are quarantined")
    explained = rows.add_column(0, "reason", pa.array(reasons, pa.string()) if isinstance(reasons, list) else reasons)
    folder = workspace.quarantine / gate
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".writing") as file:
        pq.write_table(explained, file, compression="zstd")
        file.flush()
        path = folder / f"{file_hash(Path(file.name), 16)}.parquet"
        if not path.exists():
            path.hardlink_to(file.name)
            path.chmod(0o644)
    sync_folder(folder)
    return path
