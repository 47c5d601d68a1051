package simaws

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// protocol is how an error looks on the wire; answers are written by the actions themselves.
type protocol interface {
	fail(c *call, e *apiError) *answer
}

type handler func(c *call, x *xmlWriter) (*answer, error)

const (
	cloudwatchTarget    = "GraniteServiceVersion20100801"
	organizationsTarget = "AWSOrganizationsV20161128"
)

// route finds out from the request what is asked, and in which protocol.
func (c *call) route() (handler, error) {
	if rest, ok := strings.CutPrefix(c.r.URL.Path, "/service/"+cloudwatchTarget+"/operation/"); ok {
		c.protocol, c.service, c.action = cborProtocol{}, "cloudwatch", rest
		return c.lookup(cloudwatchActions)
	}
	if target := c.r.Header.Get("X-Amz-Target"); target != "" {
		service, action, _ := strings.Cut(target, ".")
		c.action = action
		if service == cloudwatchTarget {
			c.protocol, c.service = jsonProtocol{"application/x-amz-json-1.0"}, "cloudwatch"
			return c.lookup(cloudwatchActions)
		}
		if service == pricingTarget {
			c.protocol, c.service = jsonProtocol{"application/x-amz-json-1.1"}, "pricing"
			return c.lookup(pricingActions)
		}
		c.protocol, c.service = jsonProtocol{"application/x-amz-json-1.1"}, "organizations"
		return c.lookup(organizationsActions)
	}
	values, err := url.ParseQuery(string(c.body))
	if c.r.Method == http.MethodGet {
		values, err = url.ParseQuery(c.r.URL.RawQuery)
	}
	c.form = form{values}
	c.action = c.form.get("Action")
	// The credential scope says which service is meant; unsigned requests are told apart by the API version.
	scope, _ := c.credential()
	c.protocol, c.service = ec2Protocol{}, "ec2"
	actions := ec2Actions
	switch version := c.form.get("Version"); {
	case scope.service == "sts" || scope.service == "" && version == "2011-06-15":
		c.protocol, c.service, actions = queryProtocol{"https://sts.amazonaws.com/doc/2011-06-15/"}, "sts", stsActions
	case scope.service == "monitoring" || scope.service == "" && version == "2010-08-01":
		c.protocol, c.service, actions = queryProtocol{"http://monitoring.amazonaws.com/doc/2010-08-01/"}, "cloudwatch", cloudwatchActions
	}
	if err != nil {
		return nil, fail(400, "MalformedQueryString", "The query string contains a syntax error.")
	}
	return c.lookup(actions)
}

func (c *call) lookup(actions map[string]handler) (handler, error) {
	if h, ok := actions[c.action]; ok {
		return h, nil
	}
	code := "InvalidAction"
	switch c.protocol.(type) {
	case jsonProtocol, cborProtocol:
		code = "UnknownOperationException"
	}
	return nil, fail(400, code, "The action %s is not valid for this web service.", c.action)
}

// form is a Query-protocol request.
type form struct{ url.Values }

func (f form) get(name string) string {
	if v := f.Values[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (f form) has(name string) bool { _, ok := f.Values[name]; return ok }

// list reads NAME.1, NAME.2, …; a gap ends it.
func (f form) list(name string) []string {
	var out []string
	for i := 1; ; i++ {
		v, ok := f.Values[name+"."+strconv.Itoa(i)]
		if !ok {
			return out
		}
		out = append(out, v[0])
	}
}

// each calls fn with "NAME.1.", "NAME.2.", … as long as a parameter begins so.
func (f form) each(name string, fn func(prefix string)) {
	present := map[string]bool{}
	for k := range f.Values {
		if rest, ok := strings.CutPrefix(k, name+"."); ok {
			if n, _, ok := strings.Cut(rest, "."); ok {
				present[n] = true
			}
		}
	}
	for i := 1; present[strconv.Itoa(i)]; i++ {
		fn(name + "." + strconv.Itoa(i) + ".")
	}
}

// ec2Protocol has an error envelope of its own.
type ec2Protocol struct{}

func (ec2Protocol) fail(c *call, e *apiError) *answer {
	x := new(xmlWriter)
	x.raw(`<?xml version="1.0" encoding="UTF-8"?>` + "\n<Response><Errors><Error>")
	x.str("Code", e.Code)
	x.str("Message", e.Message)
	x.raw("</Error></Errors>")
	x.str("RequestID", c.requestID)
	x.raw("</Response>")
	return &answer{status: e.Status, kind: "text/xml;charset=UTF-8", body: x.b}
}

// queryProtocol is the Query protocol of STS and CloudWatch.
type queryProtocol struct{ namespace string }

func (p queryProtocol) fail(c *call, e *apiError) *answer {
	x := new(xmlWriter)
	x.raw(`<ErrorResponse xmlns="` + p.namespace + `"><Error>`)
	x.str("Type", e.fault())
	x.str("Code", e.Code)
	x.str("Message", e.Message)
	x.raw("</Error>")
	x.str("RequestId", c.requestID)
	x.raw("</ErrorResponse>")
	return &answer{status: e.Status, kind: "text/xml", body: x.b}
}

func (e *apiError) fault() string {
	if e.Status >= 500 {
		return "Receiver"
	}
	return "Sender"
}

// jsonProtocol is awsJson 1.0 and 1.1.
type jsonProtocol struct{ kind string }

func (p jsonProtocol) fail(_ *call, e *apiError) *answer {
	body, _ := json.Marshal(map[string]string{"__type": e.shape(), "message": e.Message})
	return &answer{status: e.Status, kind: p.kind, body: body, headers: e.queryHeader()}
}

func jsonAnswer(c *call, v any) (*answer, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return &answer{status: 200, kind: c.protocol.(jsonProtocol).kind, body: body}, nil
}

// shape is the name of the modelled exception where it differs from the Query protocol's code.
func (e *apiError) shape() string {
	switch e.Code {
	case "InvalidParameterValue", "InvalidParameterCombination":
		return e.Code + "Exception"
	case "ValidationError":
		return "ValidationException"
	case "MissingParameter":
		return "MissingRequiredParameterException"
	case "InternalServiceError":
		return "InternalServiceFault"
	}
	return e.Code
}

func (e *apiError) queryHeader() map[string]string {
	return map[string]string{"X-Amzn-Query-Error": e.Code + ";" + e.fault()}
}
