"""classfeed: an online share broker's daily data feeds to Class and other fund-administration software."""
