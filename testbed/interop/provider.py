"""Says what a car's signals are to a databroker, by Eclipse KUKSA's own client, and prints what the broker says of one of them.

    provider.py HOST PORT VALUES WATCHED [--token TOKEN] [--ca FILE]

VALUES is a file of JSON: a list of [path, type, value]. All are said again twice a second, as the file is at the time.
"""

import argparse
import json
import pathlib
import threading
import time

from kuksa_client.grpc import DataEntry, Datapoint, DataType, EntryUpdate, Field, Metadata, VSSClient


def connect(arguments):
    return VSSClient(
        arguments.host,
        arguments.port,
        token=arguments.token,
        root_certificates=arguments.ca,
        # It would ask by the protocol's first version, which is not spoken here.
        ensure_startup_connection=False,
    )


def watch(arguments):
    """Prints each value of one signal, by a connection of its own."""
    with connect(arguments) as client:
        for updates in client.subscribe_current_values([arguments.watched]):
            for path, point in updates.items():
                print(f"{path} is {None if point is None else point.value}", flush=True)


def provide(arguments):
    with connect(arguments) as client:
        while True:
            for path, kind, value in json.loads(arguments.values.read_text()):
                entry = DataEntry(path, value=Datapoint(value), metadata=Metadata(data_type=DataType[kind]))
                client.set(updates=[EntryUpdate(entry, (Field.VALUE,))], try_v2=True)
            time.sleep(0.5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("values", type=pathlib.Path)
    parser.add_argument("watched")
    parser.add_argument("--token")
    parser.add_argument("--ca", type=pathlib.Path)
    arguments = parser.parse_args()
    threading.Thread(target=watch, args=(arguments,), daemon=True).start()
    provide(arguments)


if __name__ == "__main__":
    main()
