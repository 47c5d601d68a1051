// Command protovalidate prints buf/validate/validate.proto as it was when the Go package that our generated code
// imports was made. That package holds the compiled descriptor but not the source, and the schema registry it
// comes from is not reachable from everywhere, so the vendored file is written from the descriptor: what buf
// checks and what runs cannot differ. Run it through "make vendor" after changing the package's version.
package main

import (
	"fmt"
	"os"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/jhump/protoreflect/v2/protoprint"
)

const header = `// Copyright 2023-2026 Buf Technologies, Inc.
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//      http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

// Printed from the descriptor in buf.build/gen/go/bufbuild/protovalidate by tools/protovalidate ("make vendor"):
// the same schema, without the comments. Documentation: https://protovalidate.com

`

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "protovalidate:", err)
		os.Exit(1)
	}
}

func run() error {
	text, err := (&protoprint.Printer{Compact: true}).PrintProtoToString(validate.File_buf_validate_validate_proto)
	if err != nil {
		return err
	}
	_, err = fmt.Print(header + text)
	return err
}
