"""Speed: what a step costs, measured beside a floor in the same run."""
