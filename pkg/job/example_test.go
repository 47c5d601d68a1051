package job_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/job"
)

// A whole service of another team: jobs of its kind remove old temporary files,
// one scope per folder. Its main is app.Main(definition).
func ExampleHandle() {
	tidy := job.Kind{
		Name: "tidy",
		Plan: func(_ context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
			var plan []*runv1.PlannedScope
			for dir := range strings.SplitSeq(t.GetParameters()["folders"], ",") {
				plan = append(plan, job.Part(dir))
			}
			return plan, nil
		},
		Do: func(ctx context.Context, t *job.Task) error {
			for dir := range strings.SplitSeq(t.Parameters["folders"], ",") {
				if !t.IsPart(dir) {
					continue
				}
				if !filepath.IsAbs(dir) {
					return job.Permanent(fmt.Errorf("%q is not an absolute path", dir))
				}
				old, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
				if err != nil {
					return job.Permanent(err)
				}
				for _, file := range old {
					if ctx.Err() != nil { // cancelled, or the time is over
						return ctx.Err()
					}
					if err := os.Remove(file); err != nil {
						return err // is tried again, as the job says
					}
					t.Count("removed", 1)
				}
			}
			return nil
		},
	}
	definition := app.Definition{
		Name: "tidy", Summary: "removes old temporary files", Port: 7390,
		New: func(_ context.Context, env *app.Env) (app.Service, error) {
			job.Handle(env, tidy)
			return app.Handlers{}, nil
		},
	}
	fmt.Println(definition.Name)
	// Output: tidy
}
