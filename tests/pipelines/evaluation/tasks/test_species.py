import json

import pytest

from pipelines.errors import MissingTableError, TableError
from pipelines.evaluation.tasks import load_task, registered_tasks, write_species_table


def write(path, value):
    path.write_text(json.dumps(value))
    return path


def test_images_and_places_become_the_table_of_the_species_task(tmp_path):
    ids = list(range(100, 180))
    annotations = write(
        tmp_path / "train2018.json",
        {"images": [{"id": i} for i in ids], "annotations": [{"image_id": i, "category_id": i % 4} for i in ids]},
    )
    places = [{"id": str(i), "lon": i - 180.5, "lat": i / 10, "user_id": 1} for i in reversed(ids)]
    places[0] |= {"lon": None, "lat": None}
    locations = write(tmp_path / "train2018_locations.json", places[:-1])
    task = registered_tasks()["species"]
    assert write_species_table(annotations, locations, tmp_path / task.table) == 80
    data = load_task(task, tmp_path)
    assert (data.num_places, data.num_dropped["no coordinates"]) == (78, 2)
    assert data.classes == ("0", "1", "2", "3")
    assert data.lonlat_deg[0].tolist() == [101 - 180.5, 10.1]
    assert data.classes[data.target[0]] == str(101 % 4)


def test_files_of_another_form_are_refused(tmp_path):
    annotations = write(tmp_path / "a.json", {"annotations": [{"image_id": 1, "category_id": 2}]})
    with pytest.raises(TableError, match="not of the form of iNaturalist 2018"):
        write_species_table(annotations, write(tmp_path / "b.json", [{"id": 1}]), tmp_path / "t.csv")
    with pytest.raises(TableError, match="has a place for none of the 1 images"):
        write_species_table(
            annotations, write(tmp_path / "b.json", [{"id": 2, "lon": 1, "lat": 2}]), tmp_path / "t.csv"
        )
    with pytest.raises(MissingTableError, match=r"c\.json: no such file"):
        write_species_table(annotations, tmp_path / "c.json", tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()
