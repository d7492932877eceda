"""Sending of delivered files to the recipient's destination, with a receipt for each."""
