package bus

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
)

// current compares a generated file with what it should be, or writes it.
func current(t *testing.T, path string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, want) {
		t.Errorf("%s is not what the catalog and the protos say, run make generate: %v", path, err)
	}
}

// tokens say what the routing tokens are.
var tokens = map[string]string{
	"kind":      "Kind of the job, such as waste.",
	"job":       "Name of the job.",
	"service":   "Service that scans, such as waste.",
	"account":   "AWS account, 12 digits.",
	"region":    "AWS region, such as eu-west-1; - for what has none.",
	"category":  "What kind of trouble it is.",
	"severity":  "How bad it is.",
	"rule":      "Id of the rule, such as ebs-unattached.",
	"component": "Name of the component, such as nats, or service=2Fwaste for service/waste.",
	"state":     "State afterwards.",
}

// words are the values a routing token can have, when they are few.
func words(e *Event, token string) (out []string) {
	var of protoreflect.Enum
	switch {
	case token == "category":
		of = rulev1.Category(0)
	case token == "severity":
		of = rulev1.Severity(0)
	case token == "state" && strings.Contains(string(e.Name), ".run."):
		of = runv1.RunState(0)
	case token == "state":
		of = healthv1.ComponentState(0)
	default:
		return nil
	}
	values := of.Descriptor().Values()
	for i := range values.Len() {
		if n := values.Get(i).Number(); n != 0 {
			out = append(out, word(of.Type().New(n)))
		}
	}
	return out
}

type m = yaml.MapSlice

func kv(k string, v any) yaml.MapItem { return yaml.MapItem{Key: k, Value: v} }

func ref(to string) m { return m{kv("$ref", to)} }

// asyncapi is the AsyncAPI document of the catalog.
func asyncapi(t *testing.T) []byte {
	t.Helper()
	said := comments(t)
	var channels, operations, messages m
	byStream := map[string]m{}
	for _, s := range streams {
		limits := m{kv("name", s.Name), kv("description", s.Description)}
		if s.MaxAge > 0 {
			limits = append(limits, kv("maxAgeDays", int(s.MaxAge/day)), kv("maxBytes", s.MaxBytes))
		} else {
			limits = append(limits, kv("maxMessagesPerSubject", s.MaxMsgsPerSubject))
		}
		byStream[s.Name] = append(limits, kv("duplicateWindowSeconds", int(s.Duplicates.Seconds())))
	}
	for _, e := range Events() {
		text, _, _ := strings.Cut(said[string(e.Name)], "\nSubject: ")
		text = strings.ReplaceAll(text, "\n", " ")
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(e.Name)
		if err != nil {
			t.Fatal(err)
		}
		var parameters m
		for _, token := range e.Tokens {
			if tokens[token] == "" {
				t.Errorf("nobody says what <%s> of %s is", token, e.Short())
			}
			p := m{kv("description", tokens[token])}
			if w := words(e, token); w != nil {
				p = append(p, kv("enum", w))
			}
			parameters = append(parameters, kv(token, p))
		}
		channels = append(channels, kv(e.Short(), m{
			kv("address", string(e.Name)+".{"+strings.Join(e.Tokens, "}.{")+"}"),
			kv("title", e.Short()),
			kv("description", text),
			kv("servers", []m{ref("#/servers/nats")}),
			kv("messages", m{kv(e.Short(), ref("#/components/messages/"+e.Short()))}),
			kv("parameters", parameters),
			kv("x-jetstream", m{kv("stream", e.Stream), kv("example", m{kv("filter", e.Filter(e.Example...)), kv("description", e.ExampleText)})}),
		}))
		operation := func(action, summary string, who []string) {
			if len(who) == 0 {
				return
			}
			operations = append(operations, kv(action+e.Short(), m{
				kv("action", action),
				kv("channel", ref("#/channels/"+e.Short())),
				kv("summary", summary+": "+strings.Join(who, ", ")+"."),
				kv("messages", []m{ref("#/channels/" + e.Short() + "/messages/" + e.Short())}),
				kv("x-services", who),
			}))
		}
		operation("send", "Published by", e.Publishers)
		operation("receive", "Acted on by", e.Consumers)
		messages = append(messages, kv(e.Short(), m{
			kv("name", string(e.Name)),
			kv("title", e.Short()),
			kv("summary", text),
			kv("contentType", contentType),
			kv("traits", []m{ref("#/components/messageTraits/cloudevent")}),
			kv("description", "The payload is the protobuf encoding of "+string(e.Name)+"; the schema is that of its JSON mapping."),
			kv("payload", ref("#/components/schemas/"+string(e.Name))),
			kv("x-protobuf", m{kv("message", string(e.Name)), kv("proto", "../proto/"+d.ParentFile().Path()), kv("descriptorSet", "events.binpb")}),
		}))
	}
	var keep []m
	for _, s := range streams {
		keep = append(keep, byStream[s.Name])
	}
	header := func(name, about string, more ...yaml.MapItem) yaml.MapItem {
		return kv(name, append(m{kv("type", "string"), kv("description", about)}, more...))
	}
	doc := m{
		kv("asyncapi", "3.0.0"),
		kv("info", m{
			kv("title", "Nightshift events"),
			kv("version", "1.0.0"),
			kv("description", "What Nightshift publishes on NATS JetStream. Delivery is at least once; ce-id is the same for every copy of one fact. "+
				"Messages are extended, never reshaped. docs/events.md says how to subscribe, replay and deduplicate."),
		}),
		kv("defaultContentType", contentType),
		kv("servers", m{kv("nats", m{
			kv("host", "{host}:4222"),
			kv("protocol", "nats"),
			kv("description", "The NATS server of the installation. Events are kept in JetStream: read them through a consumer of your own."),
			kv("variables", m{kv("host", m{kv("default", "127.0.0.1"), kv("description", "Where NATS is.")})}),
			kv("x-jetstream", m{kv("streams", keep)}),
		})}),
		kv("channels", channels),
		kv("operations", operations),
		kv("components", m{
			kv("messages", messages),
			kv("schemas", schemas(t)),
			kv("messageTraits", m{kv("cloudevent", m{kv("headers", m{
				kv("type", "object"),
				kv("description", "CloudEvents 1.0 in the binary mode of its NATS binding."),
				kv("required", []string{headerSpecVersion, headerID, headerSource, headerType, headerTime, headerSubject, headerContentType}),
				kv("properties", m{
					header(headerSpecVersion, "Version of CloudEvents.", kv("const", "1.0")),
					header(headerID, "What the event is about: the same for every delivery and copy of one fact. Also in Nats-Msg-Id."),
					header(headerSource, "Service that published it.", kv("pattern", "^//nightshift\\.dev/[a-z0-9-]+$")),
					header(headerType, "Full name of the protobuf message."),
					header(headerTime, "When it came to be, RFC 3339.", kv("format", "date-time")),
					header(headerSubject, "The routing tokens, joined by /."),
					header(headerContentType, "How the payload is encoded.", kv("const", contentType)),
					header("traceparent", "W3C trace context of whoever published it."),
				}),
			})})}),
		}),
	}
	out, err := yaml.MarshalWithOptions(doc, yaml.IndentSequence(true))
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("# Generated from the catalog of events and the protos by \"make generate\"; do not edit.\n"), out...)
}

// schemas are JSON schemas of the JSON mapping of all messages and enums that
// events are made of, by full name. The payload itself is binary; this is the
// form in which every tool that reads AsyncAPI shows it.
func schemas(t *testing.T) m {
	t.Helper()
	said := commentsOf(t, "*.proto")
	all := map[string]m{}
	var value func(f protoreflect.FieldDescriptor) m
	var add func(d protoreflect.Descriptor) m
	add = func(d protoreflect.Descriptor) m {
		name := string(d.FullName())
		switch name {
		case "google.protobuf.Timestamp":
			return m{kv("type", "string"), kv("format", "date-time")}
		case "google.protobuf.Value":
			return m{kv("title", "any JSON value")}
		case "google.protobuf.Struct":
			return m{kv("type", "object")}
		case "google.protobuf.Duration":
			return m{kv("type", "string"), kv("pattern", `^-?[0-9]+(\.[0-9]+)?s$`)}
		}
		if strings.HasPrefix(name, "google.") {
			t.Fatalf("%s: how is it in JSON?", name)
		}
		to := ref("#/components/schemas/" + name)
		if _, there := all[name]; there {
			return to
		}
		all[name] = nil
		text, _, _ := strings.Cut(said[name], "\nSubject: ")
		about := kv("description", strings.ReplaceAll(text, "\n", " "))
		if e, ok := d.(protoreflect.EnumDescriptor); ok {
			var names []string
			for i := range e.Values().Len() {
				names = append(names, string(e.Values().Get(i).Name()))
			}
			all[name] = m{kv("type", "string"), about, kv("enum", names)}
			return to
		}
		var properties m
		fields := d.(protoreflect.MessageDescriptor).Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			v := value(f)
			switch {
			case f.IsMap():
				v = m{kv("type", "object"), kv("additionalProperties", value(f.MapValue()))}
			case f.IsList():
				v = m{kv("type", "array"), kv("items", v)}
			}
			if c := said[name+"."+string(f.Name())]; c != "" && v[0].Key != "$ref" {
				v = append(v, kv("description", c))
			}
			properties = append(properties, kv(f.JSONName(), v))
		}
		all[name] = m{kv("type", "object"), about, kv("properties", properties)}
		return to
	}
	value = func(f protoreflect.FieldDescriptor) m {
		switch f.Kind() {
		case protoreflect.MessageKind:
			if f.IsMap() {
				return nil
			}
			return add(f.Message())
		case protoreflect.EnumKind:
			return add(f.Enum())
		case protoreflect.BoolKind:
			return m{kv("type", "boolean")}
		case protoreflect.StringKind:
			return m{kv("type", "string")}
		case protoreflect.BytesKind:
			return m{kv("type", "string"), kv("contentEncoding", "base64")}
		case protoreflect.DoubleKind, protoreflect.FloatKind:
			return m{kv("type", "number")}
		case protoreflect.Int32Kind, protoreflect.Uint32Kind:
			return m{kv("type", "integer")}
		case protoreflect.Int64Kind, protoreflect.Uint64Kind:
			return m{kv("type", "string"), kv("pattern", "^-?[0-9]+$")}
		}
		t.Fatalf("%s: how is a %s in JSON?", f.FullName(), f.Kind())
		return nil
	}
	for _, e := range Events() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(e.Name)
		if err != nil {
			t.Fatal(err)
		}
		add(d)
	}
	var out m
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, kv(name, all[name]))
	}
	return out
}

// valid reports what the official schema has against a document; the schema is
// schemas/3.0.0.json of the npm package @asyncapi/specs 6.11.1, which is under
// the Apache License 2.0.
func valid(t *testing.T, doc []byte) error {
	t.Helper()
	f, err := os.Open("testdata/asyncapi-3.0.0.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := jsonschema.UnmarshalJSON(plain)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("asyncapi.json", schema); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("asyncapi.json")
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := yaml.YAMLToJSON(doc)
	if err != nil {
		t.Fatal(err)
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(instance)
}

// docs/asyncapi.yaml is made from the catalog, the streams and the protos.
func TestAsyncAPIIsCurrent(t *testing.T) {
	t.Parallel()
	doc := asyncapi(t)
	if err := valid(t, doc); err != nil {
		t.Errorf("docs/asyncapi.yaml is no AsyncAPI document: %v", err)
	}
	for what, change := range map[string][2]string{
		"an operation that does neither": {"action: send", "action: shout"},
		"a channel with a typing error":  {"    address: ", "    adress: "},
		"no version":                     {"  version: 1.0.0\n", ""},
	} {
		broken := strings.Replace(string(doc), change[0], change[1], 1)
		if broken == string(doc) || valid(t, []byte(broken)) == nil {
			t.Errorf("the schema takes %s", what)
		}
	}
	current(t, "../../docs/asyncapi.yaml", doc)
}

// docs/events.binpb has what it takes to decode every event, for those who
// have no generated code: the descriptors without comments and constraints.
func TestDescriptorsAreCurrent(t *testing.T) {
	t.Parallel()
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] || strings.HasPrefix(f.Path(), "buf/") {
			return
		}
		seen[f.Path()] = true
		imports := f.Imports()
		for i := range imports.Len() {
			add(imports.Get(i).FileDescriptor)
		}
		d := protodesc.ToFileDescriptorProto(f)
		plainly(d)
		set.File = append(set.File, d)
	}
	for _, e := range Events() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(e.Name)
		if err != nil {
			t.Fatal(err)
		}
		add(d.ParentFile())
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range Events() {
		if _, err := files.FindDescriptorByName(e.Name); err != nil {
			t.Error(err)
		}
	}
	current(t, "../../docs/events.binpb", data)
}

// plainly removes options, and the imports that only they need.
func plainly(d *descriptorpb.FileDescriptorProto) {
	d.Options = nil
	d.Dependency = slices.DeleteFunc(d.Dependency, func(p string) bool { return strings.HasPrefix(p, "buf/") })
	enums := func(all []*descriptorpb.EnumDescriptorProto) {
		for _, e := range all {
			e.Options = nil
			for _, v := range e.GetValue() {
				v.Options = nil
			}
		}
	}
	var messages func([]*descriptorpb.DescriptorProto)
	messages = func(all []*descriptorpb.DescriptorProto) {
		for _, x := range all {
			// A map is one only by its option.
			if !x.GetOptions().GetMapEntry() {
				x.Options = nil
			}
			for _, f := range x.GetField() {
				f.Options = nil
			}
			for _, o := range x.GetOneofDecl() {
				o.Options = nil
			}
			enums(x.GetEnumType())
			messages(x.GetNestedType())
		}
	}
	enums(d.GetEnumType())
	messages(d.GetMessageType())
	if len(d.GetService()) > 0 {
		panic(fmt.Sprintf("%s has services: events do not import them", d.GetName()))
	}
}
