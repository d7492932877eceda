"""The data dictionary: every declared column, with its meaning, personal tag and origin, and a search."""

from pathlib import Path

import lxml.html
from typer.testing import CliRunner

from classfeed_dagster.cli import app as cli


def test_dictionary_page_lists_every_declared_column_with_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "dictionary.html"
    result = CliRunner().invoke(cli.app, ["lineage", "--page", str(path)])
    assert result.exit_code == 0, result.output
    page = lxml.html.document_fromstring(path.read_text())
    (holdings,) = page.xpath("//section[@data-asset='class/investment_holdings']")
    rows = {cells[0]: cells for row in holdings.xpath(".//tbody/tr") if (cells := [cell.text for cell in row])}
    name, kind, meaning, personal, derived = rows["units"]
    assert (name, kind, personal) == ("units", "decimal(20,6)", "no")
    assert meaning
    assert derived == "landing/holding_eod.units"
    (portfolio,) = page.xpath("//section[@data-asset='landing/portfolio']")
    assert "personal" in portfolio.xpath("string(.//tr[td[1] = 'abn']/td[4])")
    assert page.xpath("//label[@for='q']")
    assert page.xpath("//input[@id='q']")
