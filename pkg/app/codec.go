package app

import (
	"bytes"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"nightshift.dev/pkg/errs"
)

// codec lets through what is no message of a method, such as text that is not
// UTF-8, as an empty message with a mark, which Validate refuses as it does what
// else is wrong with a request. gRPC itself says INTERNAL, and no interceptor is
// asked.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(protocodec.Name)} }

// unreadable is a field that no message has.
var unreadable = protowire.AppendVarint(protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.VarintType), 1)

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	if m, ok := v.(proto.Message); ok && err != nil {
		proto.Reset(m)
		m.ProtoReflect().SetUnknown(unreadable)
		return nil
	}
	return err
}

// readable refuses what could not be read.
func readable(m proto.Message) error {
	if !bytes.Equal(m.ProtoReflect().GetUnknown(), unreadable) {
		return nil
	}
	return errs.New(errs.InvalidArgument, "UNREADABLE_REQUEST", "the request cannot be read").
		Field("request", "is no message of this method, or has text that is not UTF-8")
}
