"""Document formats: the EPI document and the legacy files, each a declaration plus what renders and reads it."""
