"""Looking at methods: what there is (`overview`), what they do (`preview`), what they cost (`bench`)."""
