// Package report holds what was measured, works out medians, ratios and what they say about the goals, and writes both
// as JSON and as Markdown.
package report
