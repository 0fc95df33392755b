from shop import create_app, payments

flask_app = create_app()
celery_app = flask_app.extensions["celery"]
__all__ = ["celery_app", "flask_app", "payments"]
