"""A databroker made of the stubs that Eclipse KUKSA publishes: what the agent says to it and hears from it is in their bytes.

    server.py SOCKET VALUES

It listens on a Unix socket. VALUES is a file of JSON: a list of [path, type, value]. All are told again twice a second, as the file is at
the time.
"""

import argparse
import asyncio
import json
import pathlib

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from kuksa.val.v2 import types_pb2, val_pb2, val_pb2_grpc

FIELDS = {"STRING": "string", "BOOLEAN": "bool", "INT8": "int32", "UINT8": "uint32", "FLOAT": "float", "DOUBLE": "double"}


class Databroker(val_pb2_grpc.VALServicer):
    def __init__(self, values):
        self.values = values

    def signals(self):
        return json.loads(self.values.read_text())

    def points(self, wanted):
        stamp = Timestamp()
        stamp.GetCurrentTime()
        return {
            path: types_pb2.Datapoint(timestamp=stamp, value=types_pb2.Value(**{FIELDS[kind]: value}))
            for path, kind, value in self.signals()
            if path in wanted
        }

    async def ListMetadata(self, request, context):
        listed = [
            types_pb2.Metadata(path=path, id=number, data_type=types_pb2.DataType.Value(f"DATA_TYPE_{kind}"))
            for number, (path, kind, _) in enumerate(self.signals())
            if path == request.root or path.startswith(f"{request.root}.")
        ]
        return val_pb2.ListMetadataResponse(metadata=listed)

    async def Subscribe(self, request, context):
        known = {path for path, _, _ in self.signals()}
        for path in request.signal_paths:
            if path not in known:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"{path} not found")
        print(f"subscribed to {len(request.signal_paths)} with a buffer of {request.buffer_size}", flush=True)
        while True:
            yield val_pb2.SubscribeResponse(entries=self.points(request.signal_paths))
            await asyncio.sleep(0.5)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("values", type=pathlib.Path)
    arguments = parser.parse_args()
    server = grpc.aio.server()
    val_pb2_grpc.add_VALServicer_to_server(Databroker(arguments.values), server)
    server.add_insecure_port(f"unix:{arguments.socket}")
    await server.start()
    print("listening", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
