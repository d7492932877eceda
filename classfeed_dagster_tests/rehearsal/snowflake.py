"""Process of the rehearsal's Snowflake: ``python -m ….snowflake FOLDER ADDRESS CHAIN KEY``.

It ends TLS itself: the URLs that it gives to a client for uploads then begin with https, as Snowflake's do.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def main(folder: Path, address: str, chain: Path, key: Path) -> None:
    """Serve on the address's port 443 until stopped."""
    import uvicorn
    from fakesnow.instance import FakeSnow

    _know_warehouses()
    server = importlib.import_module("fakesnow.server")
    server.shared_fs = FakeSnow(db_path=folder)  # type: ignore[attr-defined, unused-ignore]
    uvicorn.run(server.app, host=address, port=443, ssl_certfile=str(chain), ssl_keyfile=str(key), log_level="warning")


def _know_warehouses() -> None:
    # fakesnow has every session function that preflight asks but this one.
    cursor: Any = importlib.import_module("fakesnow.cursor").FakeSnowflakeCursor
    execute = cursor.execute

    def execute_with_warehouse(self: Any, command: str, *arguments: Any, **options: Any) -> Any:
        return execute(self, command.replace("CURRENT_WAREHOUSE()", "'REHEARSAL'"), *arguments, **options)

    cursor.execute = execute_with_warehouse


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
