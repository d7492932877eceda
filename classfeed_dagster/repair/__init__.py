"""Automatic repair: facts about due dates, causes of failures, decisions."""
