"""Running a sharded program: arguments cut, workers called, results joined; weights cut; workers measured."""
