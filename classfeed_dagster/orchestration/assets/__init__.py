"""Software-defined assets, one file a layer."""
