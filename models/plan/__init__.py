"""Budget to plan, with numpy alone."""
