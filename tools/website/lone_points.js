/* A plugin for flot: where asv draws lines only, a benchmark of one commit would be blank. */
(function ($) {
  "use strict";

  function show_what_no_line_reaches(plot, series, datapoints) {
    if (datapoints.points.length <= datapoints.pointsize) {
      series.points.show = true;
    }
  }

  $.plot.plugins.push({
    init: function (plot) {
      plot.hooks.processDatapoints.push(show_what_no_line_reaches);
    },
    name: "lone_points",
    version: "1.0",
  });
})(jQuery);
