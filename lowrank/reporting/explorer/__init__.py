"""The explorer: the records of a folder as one page that opens from disk, without a server."""

from lowrank.reporting.explorer.assemble import page as page
