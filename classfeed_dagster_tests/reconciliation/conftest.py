"""The local warehouse, for the data team's side."""

from __future__ import annotations

from classfeed_dagster_tests.warehouse.conftest import empty_warehouse, warehouse, warehouse_server

__all__ = ["empty_warehouse", "warehouse", "warehouse_server"]
