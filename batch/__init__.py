"""The batch arm: units of a table on Ray, by plain tasks or by Ray Data."""
