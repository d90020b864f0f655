"""The main job, end to end, on a real chest CT and a real chest radiograph."""
