"""The ground. `settings` and `celeryconfig` are values, and import nothing from `tasks`.

`flowerconfig` and `pytestconfig` are loaded by Flower and by pytest, not by us: the two entry points that reach up into `tasks`.
"""
