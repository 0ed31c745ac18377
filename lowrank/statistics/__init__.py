"""Statistics of numbers per example: errors of means, tests of differences, resampling."""
