"""Where questions come from: task files, shipped benchmarks, rows of your own, reasoning-gym and the miniature."""
