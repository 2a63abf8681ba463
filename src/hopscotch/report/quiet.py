"""Keep Lightning's chatter out of the terminal: each of its lines comes twice, and one of them is an advertisement."""

import logging

ADVERTISEMENTS = ("litlogger", "litmodels", "💡")
LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")


class WithoutAdvertisements(logging.Filter):
    """Lets pass what is about this run."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage().lower()
        return not any(word in message for word in ADVERTISEMENTS)


def quiet_lightning() -> None:
    """Leave Lightning's messages one way to the terminal, the root logger's, without advertisements.

    Call after `import lightning`, which installs handlers of its own. A second call changes nothing.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if not isinstance(logger, logging.Logger) or not name.startswith("lightning"):
            continue
        if name in LOGGERS:
            logger.handlers.clear()
            logger.propagate = True
        # A filter acts on the logger a message is sent to and on none above it, so every one gets its own.
        if not any(isinstance(present, WithoutAdvertisements) for present in logger.filters):
            logger.addFilter(WithoutAdvertisements())
