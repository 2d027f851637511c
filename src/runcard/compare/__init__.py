"""Statistics, learning dynamics, verdicts and the report. Reads run folders; imports neither torch nor Hydra."""
