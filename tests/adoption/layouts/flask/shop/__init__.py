"""Flask's documented pattern for Celery: an application factory, and tasks that run in the application's context."""

from celery import Celery, Task
from flask import Flask

import celery_partitions


def create_app() -> Flask:
    app = Flask(__name__)
    app.config.from_mapping(
        CURRENCY="EUR",
        CELERY={
            "broker_url": "redis://localhost:6379/0",
            "result_backend": "redis://localhost:6379/0",
            "task_ignore_result": True,
        },
    )
    app.config.from_prefixed_env()
    celery_init_app(app)

    @app.post("/payments/<account>/<int:amount>")
    def pay(account: str, amount: int):
        from shop.payments import receive

        receive.delay({"account": account, "amount": amount})
        return {"accepted": True}

    @app.get("/payments/<account>")
    def balance(account: str):
        from shop.payments import receive

        found = receive.state(account)
        return {"account": account, "entries": found.entries if found else []}

    return app


def celery_init_app(app: Flask) -> Celery:
    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    celery_partitions.install(celery_app)
    app.extensions["celery"] = celery_app
    return celery_app
