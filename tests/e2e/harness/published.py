"""The published definition of our own gRPC service as messages, read from the file that users get.

Users compile it with protoc, which is not among what the suite installs: here the few forms that stand in the file are read
by hand, and whatever else may come to stand there is an error.
"""

import re

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from harness.process import REPOSITORY

FILE = REPOSITORY / "proxy" / "proto" / "outrigger" / "v1" / "feedback.proto"
Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "double": Field.TYPE_DOUBLE, "int64": Field.TYPE_INT64, "bool": Field.TYPE_BOOL, "string": Field.TYPE_STRING,
    "bytes": Field.TYPE_BYTES, "uint32": Field.TYPE_UINT32,
}  # fmt: skip
FIELD = re.compile(r"(?:(repeated|optional) )?([\w.]+|map<string, ?\w+>) (\w+) = (\d+)$")


def read(text):
    """A file's descriptor, of its text."""
    text = re.sub(r"//.*", "", text)
    file = descriptor_pb2.FileDescriptorProto(name=FILE.name, syntax="proto3")
    inside, oneof = [], None
    for token in re.findall(r"[^;{}]+[;{]|\}", text):
        word = " ".join(token.rstrip(";{").split())
        if token == "}":
            oneof, inside = (None, inside) if oneof is not None else (None, inside[:-1])
        elif word.startswith("package "):
            file.package = word.split()[1]
        elif word.startswith("service "):
            inside.append(file.service.add(name=word.split()[1]))
        elif word.startswith("message "):
            inside.append(file.message_type.add(name=word.split()[1]))
        elif word.startswith("oneof "):
            oneof = len(inside[-1].oneof_decl)
            inside[-1].oneof_decl.add(name=word.split()[1])
        elif word.startswith("rpc "):
            name, request, response = re.fullmatch(r"rpc (\w+) ?\((\w+)\) returns \((\w+)\)", word).groups()
            inside[-1].method.add(name=name, input_type=full(file, request), output_type=full(file, response))
        elif word and not word.startswith("syntax"):
            add(file, inside[-1], oneof, *FIELD.fullmatch(word).groups())
    for message in file.message_type:
        # What `optional` stands for comes behind all that is written.
        for field in message.field:
            if field.proto3_optional:
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")
    return file


def full(file, name):
    return f".{file.package}.{name}"


def add(file, message, oneof, label, kind, name, number):
    field = message.field.add(name=name, number=int(number), label=Field.LABEL_OPTIONAL)
    field.json_name = re.sub("_(.)", lambda found: found[1].upper(), name)
    if oneof is not None:
        field.oneof_index = oneof
    field.proto3_optional = label == "optional"
    if kind.startswith("map<"):
        entry = message.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=Field.LABEL_OPTIONAL, type=Field.TYPE_STRING)
        value = entry.field.add(name="value", number=2, label=Field.LABEL_OPTIONAL, type=Field.TYPE_MESSAGE)
        value.type_name = full(file, kind[len("map<string,") : -1].strip())
        field.type_name = f"{full(file, message.name)}.{entry.name}"
        label, field.type = "repeated", Field.TYPE_MESSAGE
    elif kind in SCALARS:
        field.type = SCALARS[kind]
    else:
        field.type, field.type_name = Field.TYPE_MESSAGE, full(file, kind)
    if label == "repeated":
        field.label = Field.LABEL_REPEATED


POOL = descriptor_pool.DescriptorPool()
DESCRIBED = read(FILE.read_text())
POOL.Add(DESCRIBED)


def message(name):
    """The class of a message of the published definition."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{DESCRIBED.package}.{name}"))


ReportRequest, ReportResponse = message("ReportRequest"), message("ReportResponse")
(SERVICE,) = DESCRIBED.service
REPORT = f"/{DESCRIBED.package}.{SERVICE.name}/{SERVICE.method[0].name}"
