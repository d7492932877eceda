"""Delivery of documents: plan, pages, gate, publishing exactly once, quarantine and verification."""
