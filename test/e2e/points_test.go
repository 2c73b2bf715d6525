package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"stoker/store"
)

// faultPoints are the names that the source gives to calls of faults.CALL, so that no crash point and no planted bug is
// forgotten here.
func faultPoints(t *testing.T, call string) []string {
	t.Helper()
	var names []string
	for _, dir := range []string{"store", "daemon", "engine", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if c, ok := n.(*ast.CallExpr); ok && isFault(c, call) {
					names = append(names, expand(t, path, c.Args[0])...)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func isFault(c *ast.CallExpr, call string) bool {
	f, ok := c.Fun.(*ast.SelectorExpr)
	if !ok || f.Sel.Name != call {
		return false
	}
	pkg, ok := f.X.(*ast.Ident)
	return ok && pkg.Name == "faults"
}

// expand returns the names that an argument can be: a literal, or one with a result file's suffix behind it.
func expand(t *testing.T, path string, arg ast.Expr) []string {
	t.Helper()
	switch arg := arg.(type) {
	case *ast.BasicLit:
		name, err := strconv.Unquote(arg.Value)
		if err == nil {
			return []string{name}
		}
	case *ast.BinaryExpr:
		if suffix, ok := arg.Y.(*ast.SelectorExpr); ok && suffix.Sel.Name == "Suffix" {
			base := expand(t, path, arg.X)[0]
			return []string{base + store.SuffixOutput, base + store.SuffixErrors}
		}
	}
	t.Fatalf("%s: cannot tell the name of a fault; teach expand its form", path)
	return nil
}
