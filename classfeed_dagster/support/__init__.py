"""The support group: re-runs, the identity behind them, and the web page that offers them."""
