"""Recipients' acknowledgements: read from the inbox, matched with deliveries, kept, stored in the warehouse."""
