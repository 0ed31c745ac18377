"""What the tables of the contracts have in common."""


def exported(module: object, base: type, methods: set[str]) -> set[type]:
    """The exported classes that have an implementation of every one of the methods."""
    found = {value for value in vars(module).values() if isinstance(value, type)}
    return {
        cls
        for cls in found
        if issubclass(cls, base)
        and not any(getattr(getattr(cls, m), "__isabstractmethod__", False) for m in methods)
    }
