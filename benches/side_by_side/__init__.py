"""Parts of `benches/compare`: the tools, the scenarios, the tables."""
