"""What teams did, from journals alone: per run, per channel, per arm. No model is called and no agent's word is believed.

`trace` reads a journal, `runs` measures one run, `channels` what its mails carried, `arms` compares over trials with
intervals, `correlation` the errors of agents with each other. Times are seconds of the run's own clock, lengths are tokens.

Source of the notions: Y. Kim et al., "Towards a Science of Scaling Agent Systems", 2025 (arXiv:2512.08296), and L. Liu,
L. Kong, J. Pei, "Phase Transition for Budgeted Multi-Agent Synergy", 2026 (arXiv:2601.17311). Where a definition is missing
there or contradicts itself, the formula beside the name is our own, and the text says so.
"""
