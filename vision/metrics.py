"""What the selfie worker exports besides what every service does. No label ever comes from a picture."""

from prometheus_client import Counter, Gauge, Histogram

from core.metrics import SECONDS

PLACES = Gauge("soundstage_vision_places_taken", "Requests being read, waiting or worked on.")
WORK_SECONDS = Histogram("soundstage_vision_work_seconds", "Seconds a thread spent on one image.", buckets=SECONDS)
WAITING = Gauge("soundstage_vision_waiting", "Images that are decoded and wait for the detector.")
BATCH = Histogram("soundstage_vision_batch", "Images the detector took at once.", buckets=(1, 2, 4, 8, 16, 32, 64))
PHOTOS = Counter("soundstage_vision_photos_total", "Photos analyzed, by whether a face was found.", ["face"])
REPAIRS = Counter(
    "soundstage_vision_repairs_total", "Answers of the vision model that did not fit and were asked again."
)
