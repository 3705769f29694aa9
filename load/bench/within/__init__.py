"""Programs that measure themselves, each in a fresh process beside a project of ours."""
